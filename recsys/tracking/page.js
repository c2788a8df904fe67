document.querySelectorAll('table').forEach(t=>{
 t.querySelectorAll('th').forEach((h,i)=>h.onclick=()=>{
  const b=t.tBodies[0],r=[...b.rows],d=h.dataset.d=h.dataset.d==='1'?'-1':'1';
  const v=x=>{const c=x.cells[i],n=c.dataset.v;return n===undefined?c.textContent:(n===''?NaN:+n)};
  r.sort((x,y)=>{const a=v(x),c=v(y);
   if(typeof a==='number'||typeof c==='number'){if(a!==a)return 1;if(c!==c)return -1;return d*(a-c)}
   return d*a.localeCompare(c)});
  r.forEach(x=>b.appendChild(x))})});
document.querySelectorAll('input[data-for]').forEach(f=>f.oninput=()=>{
 const q=f.value.toLowerCase();
 document.getElementById(f.dataset.for).querySelectorAll('tbody tr').forEach(
  r=>r.hidden=!r.textContent.toLowerCase().includes(q))});
